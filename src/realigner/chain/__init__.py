"""From one policy to the next: what a new policy changes, and whether what stayed in force still holds."""
