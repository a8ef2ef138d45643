"""The soak: a gateway under a steady mix of good and bad clients and failing providers, and afterwards nothing of it may be left.

    python -m tests.faults.soak --minutes 60 --seed 7      # the long form (`make soak MINUTES=60`)

Each client (`load`) does one thing of the mix after the other (`mix`): it asks for streams and whole answers of every format, has responses
kept, hangs up, stalls, sends nonsense, may not, meets providers that fail, looks at pages, uses keys and models that come and go; for many
accounts, keys, users and models (`market`), so that whatever is kept by one of them without end is found. Between two moments at which nothing is
under way, memory, tasks, descriptors, threads, streams and calls of the web process must be what they were (`watch`, `inside`), memory must not
have grown by the hour (`gauges`), every honest request must have been answered and charged, and the audit clean. `bugs` plants leaks: a run with
one must fail.
"""
