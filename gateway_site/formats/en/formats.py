"""Django's own names, which it asks this module for. A moment without its zone is read as the reader's own."""

DATETIME_FORMAT = "Y-m-d H:i e"
SHORT_DATETIME_FORMAT = DATETIME_FORMAT
DATE_FORMAT = "Y-m-d"
SHORT_DATE_FORMAT = DATE_FORMAT
