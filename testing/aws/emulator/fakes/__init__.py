"""Stand-ins for what an instance of the process fleet must not do to the machine that the tests run on."""
