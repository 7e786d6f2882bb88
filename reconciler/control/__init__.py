"""The loop and what it needs: watch the file, plan, execute, publish. The only room that changes what runs."""
