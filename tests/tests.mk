# What runs: included by the Makefile.  Scripts take the build folder as their first argument.

test: all tests
	tests/run.sh $(O)

.PHONY: test
