"""What every page of the admin is made from: the theme's classes, read-only tables, pages of one object, and the announcing of changes.

The only module that knows the theme. To go back to Django's own admin, import `ModelAdmin` and `TabularInline` from `django.contrib.admin`
here and take "unfold" out of INSTALLED_APPS; what the theme alone understands (buttons, the colours of badges) is then ignored.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.options import IS_POPUP_VAR
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import models, transaction
from django.forms.utils import pretty_name
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from unfold import widgets
from unfold.enums import ActionVariant
from unfold.paginator import InfinitePaginator

from gateway_site import changes

if TYPE_CHECKING:
    from django.contrib.admin.widgets import AdminSplitDateTime as ThemedDateTimeWidget
    from django.contrib.auth.forms import AdminPasswordChangeForm, UserChangeForm
    from django.contrib.auth.forms import AdminUserCreationForm as UserCreationForm

    ThemedAdmin = admin.ModelAdmin[Any]
    ThemedInline = admin.TabularInline[Any, Any]
    ThemedForm = forms.ModelForm[Any]
    CountlessPaginator = Paginator[Any]
else:
    from unfold.admin import ModelAdmin as ThemedAdmin
    from unfold.admin import TabularInline as ThemedInline
    from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
    from unfold.widgets import UnfoldAdminSplitDateTimeWidget as ThemedDateTimeWidget

    ThemedForm = forms.ModelForm
    CountlessPaginator = InfinitePaginator  # pages on without ever counting the rows

__all__ = [
    "AdminPasswordChangeForm",
    "BigTableAdmin",
    "DateTimeWidget",
    "LinesField",
    "ModelAdmin",
    "ModelForm",
    "Page",
    "PageForm",
    "ReadOnlyAdmin",
    "ReadOnlyInline",
    "Table",
    "TabularInline",
    "UserChangeForm",
    "UserCreationForm",
    "announce",
    "badge",
    "change_url",
    "dress",
    "link",
    "link_to",
    "may_see",
]

WIDGETS: tuple[tuple[type[forms.Widget], list[str]], ...] = (
    (forms.CheckboxInput, widgets.SWITCH_CLASSES),
    (forms.Textarea, widgets.TEXTAREA_CLASSES),
    (forms.Select, widgets.SELECT_CLASSES),
    (forms.Widget, widgets.INPUT_CLASSES),
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table below the fields of an object's page. Cells are text or safe HTML."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]
    more: str = ""  # where all of them are listed
    empty: str = "Nothing yet."  # what is said without rows

    @property
    def contents(self) -> dict[str, Any]:
        """The table as the theme's component takes it."""
        return {"headers": self.headers, "rows": self.rows}


@dataclass(frozen=True, slots=True)
class Page:
    """A page about one object, reached by a button on it: a deed with a form, or a confirmation.

    `view` names the method of the admin class that serves it (request, object); `permissions` are Django's ("billing.change_wallet");
    `offered` says for which objects the page makes sense.
    """

    view: str
    title: str
    permissions: tuple[str, ...]
    icon: str = ""
    danger: bool = False
    offered: Callable[[Any], bool] = lambda _: True

    @property
    def address(self) -> str:
        """The last part of the page's URL."""
        return self.view.replace("_", "-")


class DateTimeWidget(ThemedDateTimeWidget):
    """A date and a time of day, which say that they are UTC's."""

    def get_context(self, name: str, value: Any, attrs: dict[str, Any] | None) -> dict[str, Any]:
        """Name each of the two: the label is about both."""
        context = super().get_context(name, value, attrs)
        for part, named in zip(context["widget"]["subwidgets"], ("Date, UTC", "Time, UTC"), strict=True):
            part["attrs"]["aria-label"] = named
        return context

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        """Say the zone below them."""
        return format_html('{}<p class="mt-2 text-xs">UTC</p>', super().render(name, value, attrs, renderer))


class Dressed:
    """Puts the theme's dress on the fields that a form declares itself (a model's own are dressed by its admin class)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in self.declared_fields:  # type: ignore[attr-defined]
            if name in self.fields:  # type: ignore[attr-defined]
                dress(self.fields[name].widget)  # type: ignore[attr-defined]


class PageForm(Dressed, forms.Form):
    """The form of a page of its own."""


class ModelForm(Dressed, ThemedForm):
    """The form of a model's page."""


class LinesField(forms.CharField):
    """A list of texts, written one a line."""

    def __init__(self, *, check: Callable[[list[str]], list[str]] = list, **kwargs: Any) -> None:
        """`check` returns the list as it is to be stored, or raises ValueError with the reason."""
        super().__init__(**{"required": False, "widget": forms.Textarea(attrs={"rows": 3}), **kwargs})
        self._check = check

    def clean(self, value: Any) -> Any:
        """Split and check what was typed. Raises: ValidationError."""
        lines = _lines(value)
        if self.required and not lines:
            raise forms.ValidationError(self.error_messages["required"], code="required")
        try:
            return self._check(lines)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error

    def prepare_value(self, value: Any) -> str:
        """The list as lines."""
        return "\n".join(map(str, value)) if isinstance(value, list) else str(value or "")

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Whether the lines say something else now."""
        return _lines(self.prepare_value(initial)) != _lines(data)


class ModelAdmin(ThemedAdmin):
    """The project's admin page of a model.

    Lists never count the whole table for their footer. `pages` are buttons on an object, `list_pages` (title, icon, view name, permission)
    buttons on the list. `topics` names what other processes must be told once a change is committed.
    """

    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # a facet counts every row
    list_per_page = 50
    list_max_show_all = 200
    save_on_top = False
    change_form_template = "admin/object_page.html"
    formfield_overrides: ClassVar[dict[Any, Any]] = {
        models.DateTimeField: {"form_class": forms.SplitDateTimeField, "widget": DateTimeWidget}
    }
    empty_text: ClassVar[str] = ""  # what puts rows into this list, said while it has none
    pages: ClassVar[tuple[Page, ...]] = ()
    list_pages: ClassVar[tuple[Page, ...]] = ()

    def topics(self, obj: Any) -> Iterable[str]:  # noqa: ARG002 - for subclasses
        """What to announce when `obj` has changed ("key:17")."""
        return ()

    def tables(self, request: HttpRequest, obj: Any) -> Iterable[Table]:  # noqa: ARG002 - for subclasses
        """The tables below the fields of `obj`."""
        return ()

    # -- changes are announced

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:  # noqa: FBT001 - the signature is Django's
        """Save the inlines, and tell the other processes of the object that owns them."""
        super().save_related(request, form, formsets, change)
        self.announce(form.instance)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Delete one object and tell the other processes."""
        topics = tuple(self.topics(obj))
        super().delete_model(request, obj)
        announce(topics)

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        """Delete the chosen objects and tell the other processes."""
        topics = {topic for obj in queryset for topic in self.topics(obj)}
        super().delete_queryset(request, queryset)
        announce(sorted(topics))

    def announce(self, obj: Any) -> None:
        """Tell the other processes, once this is committed, that `obj` has changed."""
        announce(self.topics(obj))

    # -- pages of an object

    def get_urls(self) -> list[URLPattern]:
        """Put the pages before Django's own addresses, whose last one takes everything."""
        info = f"{self.opts.app_label}_{self.opts.model_name}"
        view = self.admin_site.admin_view
        return [
            *[path(f"{page.address}/", view(partial(self._serve_list_page, page)), name=f"{info}_{page.view}") for page in self.list_pages],
            *[
                path(f"<path:object_id>/{page.address}/", view(partial(self._serve_page, page)), name=f"{info}_{page.view}")
                for page in self.pages
            ],
            *super().get_urls(),
        ]

    def _serve_page(self, page: Page, request: HttpRequest, object_id: str) -> HttpResponse:
        obj = self.get_object(request, unquote(object_id))
        if obj is None:
            raise Http404
        if not self.has_view_or_change_permission(request, obj) or not request.user.has_perms(page.permissions):
            raise PermissionDenied
        if not page.offered(obj):
            messages.warning(request, f"{page.title}: there is nothing to do for {obj}.")
            return HttpResponseRedirect(change_url(obj))
        return getattr(self, page.view)(request, obj)  # type: ignore[no-any-return]

    def _serve_list_page(self, page: Page, request: HttpRequest) -> HttpResponse:
        if not request.user.has_perms(page.permissions):
            raise PermissionDenied
        return getattr(self, page.view)(request)  # type: ignore[no-any-return]

    def form_page(
        self, request: HttpRequest, obj: Any, *, title: str, form: forms.Form, submit: str, about: str = "", danger: bool = False
    ) -> HttpResponse:
        """Show `form` on a page of its own; it is posted to the same address."""
        return self.render_page(
            request,
            "admin/form_page.html",
            obj,
            title=title,
            form=form,
            submit=submit,
            about=about,
            danger=danger,
            media=self.media + form.media,
        )

    def render_page(self, request: HttpRequest, template: str, obj: Any, **context: Any) -> TemplateResponse:
        """Render `template` as a page of the admin about `obj` (None: about the list)."""
        request.current_app = self.admin_site.name
        return TemplateResponse(
            request,
            template,
            {
                **self.admin_site.each_context(request),
                # Instead of `opts` and `original`, so that the theme's heading ends in what this page is.
                "model_admin": self,
                "object": obj,
                "back": self.list_url() if obj is None else change_url(obj),
                "media": self.media,
                **context,
            },
        )

    def list_url(self) -> str:
        """Where the list is."""
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist")

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,  # noqa: FBT001, FBT002 - the signature is Django's
        change: bool = False,  # noqa: FBT001, FBT002
        form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:
        """Add the buttons and the tables of the object."""
        if obj is not None and IS_POPUP_VAR not in request.GET:
            context["tables"] = list(self.tables(request, obj))
            context["actions_detail"] = [
                _button(page, reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_{page.view}", args=[quote(obj.pk)]))
                for page in self.pages
                if request.user.has_perms(page.permissions) and page.offered(obj)
            ]
        return super().render_change_form(request, context, add, change, form_url, obj)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Add the buttons of the list."""
        response = super().changelist_view(request, extra_context)
        if isinstance(response, TemplateResponse) and response.context_data is not None and self.list_pages:
            response.context_data["actions_list"] = [
                _button(page, reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_{page.view}"))
                for page in self.list_pages
                if request.user.has_perms(page.permissions)
            ]
        return response


class ReadOnlyAdmin(ModelAdmin):
    """A table that the admin shows and never writes, whatever permissions somebody has: every POST is refused."""

    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002 - the signature is Django's
        """Nobody."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - the signature is Django's
        """Nobody."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - the signature is Django's
        """Nobody."""
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show the list; refuse anything posted to it."""
        if request.method == "POST":
            raise PermissionDenied
        return super().changelist_view(request, extra_context)


class BigTableAdmin(ReadOnlyAdmin):
    """A read-only table that may hold millions of rows: it is paged without counting and sorted by its index alone."""

    paginator = CountlessPaginator
    sortable_by = ()
    list_max_show_all = 0


class TabularInline(ThemedInline):
    """Rows of another table on an object's page; without empty rows until one is asked for."""

    extra = 0

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        """Call each control what its column is called, which a screen reader does not see from inside the cell."""
        formset = super().get_formset(request, obj, **kwargs)
        for name, field in formset.form.base_fields.items():
            field.widget.attrs.setdefault("aria-label", capfirst(field.label or pretty_name(name)))
        return formset


class ReadOnlyInline(TabularInline):
    """Rows that are only shown."""

    can_delete = False
    show_change_link = True

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """All of them: a column that no form may have is shown too."""
        return self.get_fields(request, obj)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - the signature is Django's
        """Nobody."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - the signature is Django's
        """Nobody."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - the signature is Django's
        """Nobody."""
        return False


def announce(topics: Iterable[str]) -> None:
    """Tell the other processes of each topic once the transaction is committed."""
    for topic in topics:
        transaction.on_commit(partial(changes.publish, topic))


def may_see(request: HttpRequest, model: str) -> bool:
    """Whether this person may see the table `model` ("billing.wallet")."""
    app, name = model.split(".")
    return request.user.has_perm(f"{app}.view_{name}") or request.user.has_perm(f"{app}.change_{name}")


def dress(widget: forms.Widget) -> forms.Widget:
    """Give a widget the theme's classes."""
    classes = next(classes for kind, classes in WIDGETS if isinstance(widget, kind))
    if not widget.is_hidden and not isinstance(widget, forms.MultiWidget):
        widget.attrs["class"] = " ".join(classes)
    if isinstance(widget, forms.Select) and not widget.allow_multiple_selected:
        widget.template_name = "unfold/widgets/select.html"  # with the arrow that its classes take away
    return widget


def change_url(obj: models.Model) -> str:
    """The address of an object's page."""
    meta = obj._meta  # noqa: SLF001 - Django's own name for it
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[quote(obj.pk)])


def link_to(obj: models.Model | None, text: str = "") -> SafeString | str:
    """A link to an object's page; plain text where it has none."""
    if obj is None:
        return "-"
    try:
        return link(change_url(obj), text or str(obj))
    except NoReverseMatch:
        return text or str(obj)


def link(address: str, text: str) -> SafeString:
    """A link within the admin."""
    return format_html('<a href="{}" class="text-primary-600 dark:text-primary-500">{}</a>', address, text)


def badge(text: str, tone: str = "") -> SafeString:
    """A coloured word; `tone` is success, info, warning, danger or nothing."""
    return SafeString(render_to_string("unfold/helpers/label.html", {"text": text, "variant": tone}).strip())


def _lines(text: Any) -> list[str]:
    return [line.strip() for line in str(text or "").splitlines() if line.strip()]


def _button(page: Page, address: str) -> dict[str, Any]:
    return {
        "title": page.title,
        "icon": page.icon,
        "variant": ActionVariant.DANGER if page.danger else ActionVariant.DEFAULT,
        "attrs": {},
        "dialog": None,
        "path": address,
    }
