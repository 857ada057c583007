"""Local mode: everything that containers would otherwise be, as processes of this machine under supervisord.

programs        what runs, from the settings: names, commands, how each is stopped
configuration   the environment of the programs, and the file that supervisord reads
supervisor      supervisord: start it, ask it, change it, end it
processes       what was started for a BASEDIR and still runs, whatever became of supervisord
ports           whether the ports are free, and who has them if not
health          whether each part answers
stack           up, down, status: the above in order
"""
