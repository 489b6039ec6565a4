"""What runs by itself: jobs, and the schedules and sensors that start them."""
