"""`python -m dcm_processor.cli`: the command line where its script is not on PATH."""

from dcm_processor.cli import main

main(prog_name="dcm-processor")
