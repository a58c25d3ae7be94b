"""Where the measured numbers come from: one command per benchmark. No part of the package."""
