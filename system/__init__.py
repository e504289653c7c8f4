"""What every program needs of its machine, and knows nothing of patches.

Open ``command`` first: how a program runs and ends. ``errors`` holds the one exception that users can mend, ``streams``
keeps work going when nobody listens, ``files`` writes files whole or not at all, ``shown`` shows long work, ``advice``
spells commands that messages advise, ``launcher`` reads what torchrun leaves, ``compiler`` is numba's and torch's.
"""
