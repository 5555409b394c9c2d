"""Where units run. Every engine runs the same `execute`; the inline one needs no Ray, for debugging
and fast tests.

Nothing is imported here: the process of the queue needs `engine.queue` alone.
"""
