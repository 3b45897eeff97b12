"""What runs inside the sandbox: standard library only, started by :mod:`dlm.tasks.sandbox` without site packages."""
