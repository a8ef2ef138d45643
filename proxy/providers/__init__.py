"""The providers as declarations: how to sign in, which paths and formats they have, and what their errors mean."""
