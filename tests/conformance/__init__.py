"""The whole Autobahn suite, run by hand."""
