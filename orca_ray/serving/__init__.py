"""The HTTP endpoint of a model: ``orca-sweep serve``.

One process answers HTTP (`application`, `guard`); it checks and encodes requests. A replica of a Ray Serve deployment
(`replica`) holds the network and collects requests into batches. Ray Serve's own HTTP proxy is not used: it has no
limits on bodies and slow senders, answers 500 to headers that are not UTF-8, and lists its routes without a token.
"""
