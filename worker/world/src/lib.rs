//! The small world of the demo model: seeded scenes, their pictures, captions and questions.
