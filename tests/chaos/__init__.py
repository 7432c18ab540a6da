"""Everything that can go wrong, with real processes and real sockets: what is promised holds through all of it.

A scenario runs on a `stage.Stage`, on which rigs and coordinators are processes of their own (`actors`) that write
down what they do; afterwards `verdict` reads it all and says what was not as promised. `machine` is what the
operating system can do to them: namespaces with a bad network between, and false clocks.
"""
