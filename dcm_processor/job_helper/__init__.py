"""Where the helper lies that every service's environment has: alone in this folder, so that the folder can be a place
that Python imports from (`PYTHONPATH`), and nothing but `dcm_processor_job` comes with it.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
NAME = "dcm_processor_job"
