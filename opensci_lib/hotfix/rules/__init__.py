"""One rewrite a module. Each says what breaks where and why, and shows itself before and after."""
