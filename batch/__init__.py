"""Whole archives: a work list of videos, a journal of what is done, and executors that run it.

``batch`` drives; ``work`` lists videos and cuts them into tasks; ``worker`` does one task and
``results`` puts it in place; ``local`` and ``cluster`` (Ray) are the executors behind one
interface. Needs streamseg[batch]: fsspec for files anywhere, pyarrow for tables.
"""
