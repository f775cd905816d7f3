"""`python -m proa_operator.model_download`: a model from a hub or a registry into a folder, verified and resumable.

docs/model-source.md describes the protocols, the folder and the exit codes. `render/download.py` makes the Job.
"""
