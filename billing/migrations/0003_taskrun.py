from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0002_functions'),
    ]

    operations = [
        migrations.CreateModel(
            name='TaskRun',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=100, unique=True)),
                ('last_started_at', models.DateTimeField()),
                ('last_finished_at', models.DateTimeField(null=True)),
                ('last_error', models.TextField(blank=True, help_text='What the last run ended with; empty when it ended well.')),
                ('runs', models.BigIntegerField(default=0)),
                ('findings', models.BigIntegerField(default=0, help_text='What the last run found that needs a person: for the audit, broken invariants.')),
            ],
        ),
    ]
