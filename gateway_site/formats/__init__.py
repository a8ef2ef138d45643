"""How moments are written where nothing else says it, most of all in the admin's lists: with their zone, and so that they sort."""
