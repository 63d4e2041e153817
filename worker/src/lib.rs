//! The fleet's member: one TinyGPT-V on one device, fed from a queue.
