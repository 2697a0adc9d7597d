//! Attributes of one measurement.

use super::catalogue::Attribute;

/// Attributes with their values, sorted by attribute; each attribute once.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Vec<(Attribute, String)>);

impl Labels {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// These and one more; a value given before is replaced.
    #[must_use]
    pub fn with(mut self, attribute: Attribute, value: impl Into<String>) -> Self {
        self.set(attribute, value.into());
        self
    }

    /// These and one more, if it has a value.
    #[must_use]
    pub fn with_some(self, attribute: Attribute, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.with(attribute, value),
            None => self,
        }
    }

    /// Value of an attribute.
    pub fn get(&self, attribute: Attribute) -> Option<&str> {
        let index = self.0.binary_search_by_key(&attribute, |(a, _)| *a).ok()?;
        Some(&self.0[index].1)
    }

    /// In the order of the attributes.
    pub fn iter(&self) -> impl Iterator<Item = (Attribute, &str)> {
        self.0.iter().map(|(attribute, value)| (*attribute, value.as_str()))
    }

    pub(super) fn set(&mut self, attribute: Attribute, value: String) {
        match self.0.binary_search_by_key(&attribute, |(a, _)| *a) {
            Ok(index) => self.0[index].1 = value,
            Err(index) => self.0.insert(index, (attribute, value)),
        }
    }

    pub(super) fn remove(&mut self, attribute: Attribute) {
        self.0.retain(|(a, _)| *a != attribute);
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = (Attribute, &mut String)> {
        self.0.iter_mut().map(|(attribute, value)| (*attribute, value))
    }
}
