"""Formats of leaderboards: each module declares one as ``FORMAT``, or several as
``FORMATS``.
"""
