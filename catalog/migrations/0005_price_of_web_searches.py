"""A price may say what one search costs that the provider runs itself."""

import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("catalog", "0004_vertex_and_video")]

    operations = [
        migrations.AddField(
            model_name="price",
            name="web_search",
            field=models.BigIntegerField(
                blank=True, null=True, validators=[django.core.validators.MinValueValidator(0)], verbose_name="web search"
            ),
        ),
        migrations.AddConstraint(
            model_name="price",
            constraint=models.CheckConstraint(
                condition=models.Q(("web_search__isnull", True), ("web_search__gte", 0), _connector="OR"), name="price_web_search_positive"
            ),
        ),
    ]
