from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0017_stored_content'),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='alertsettings',
            options={'verbose_name_plural': 'alert settings'},
        ),
    ]
