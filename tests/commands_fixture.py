"""Runs the console commands within the test process."""

import sys

import pytest


def fixture_of(name, main):
    """A fixture: a function that runs the command in an empty folder and returns what it printed."""

    @pytest.fixture
    def command(tmp_path, monkeypatch, capfd):
        def run(*arguments):
            monkeypatch.chdir(tmp_path)
            monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
            monkeypatch.setenv("COLUMNS", "120")
            main()
            printed = capfd.readouterr()
            return printed.out + printed.err

        return run

    return command
