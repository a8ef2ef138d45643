import django.contrib.postgres.fields
import django.contrib.postgres.indexes
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('proxy', '0001_initial'),
    ]

    operations = [
        migrations.AddField(
            model_name='storedresponse',
            name='item_ids',
            field=django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=200), db_default=[], default=list, size=None),
        ),
        migrations.AddIndex(
            model_name='storedresponse',
            index=django.contrib.postgres.indexes.GinIndex(fields=['item_ids'], name='response_by_item'),
        ),
    ]
