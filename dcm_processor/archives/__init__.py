"""Archives and what is written from them: ours between hosts, foreign ones from people."""
