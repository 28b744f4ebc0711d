"""The checker: decides from nothing but the tables of a finished run whether the system under test did its job.

As Jepsen's checkers do, it trusts nobody's word for it: a request's outcome must agree with the plan of its epoch, with
the hosts that ran its stages, and with the times at which all of that happened. :func:`runner.checker.check.check_run`
is what the end of every run and ``python -m testbed check`` call.
"""
