"""PostgreSQL and Valkey from wheels, started for whoever gave no URL of their own, and the supervisor behind `make run`."""
