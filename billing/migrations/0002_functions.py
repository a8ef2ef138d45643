from django.db import migrations

from billing import sql


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial")]
    # sqlparse must not split the bodies of functions: each file is one statement list, run as it is.
    operations = [
        migrations.RunSQL([(sql.read("schema"), None)], migrations.RunSQL.noop),
        migrations.RunSQL([(sql.read_functions(), None)], migrations.RunSQL.noop),
    ]
