"""Made-up tissue, for the demo, tests and benches: never for results.

In: a seed and sizes. Out: data sets in Kaggle's layout, down to the bytes of its TIFFs (``kaggle``), and in
PatchCamelyon's (``pcam``). Open ``tissue`` first (the image model), then ``cells`` (what it stamps).
"""
