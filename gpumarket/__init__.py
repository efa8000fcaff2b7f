"""An open marketplace where GPU owners sell verified compute."""
