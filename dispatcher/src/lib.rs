//! Publishes captioning and search jobs, follows them to their last row, and finds pictures again.
