"""What happens to tasks, and when: the API's door (`service`), the pure rules (`decide`, `admission`) and the loop."""
