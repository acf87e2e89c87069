//! EC2's XML: reading and changing moto's answers, and writing our own.

use xmltree::{Element, EmitterConfig, XMLNode};

pub const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

pub fn parse(text: &str) -> Result<Element, String> {
    Element::parse(text.as_bytes()).map_err(|error| format!("moto's answer is no XML: {error}"))
}

pub fn print(root: &Element) -> String {
    let mut out = Vec::new();
    // Into memory: there is nothing that could fail.
    let written = root.write_with_config(&mut out, EmitterConfig::new());
    debug_assert!(written.is_ok());
    String::from_utf8(out).unwrap_or_default()
}

/// The text of the element at this path.
pub fn text(element: &Element, path: &str) -> Option<String> {
    let found = path.split('/').try_fold(element, |element, name| element.get_child(name))?;
    Some(found.get_text().unwrap_or_default().into_owned())
}

/// The `item`s of a list.
pub fn items<'a>(element: &'a Element, list: &str) -> impl Iterator<Item = &'a Element> {
    element.get_child(list).into_iter().flat_map(|list| list.children.iter().filter_map(XMLNode::as_element))
}

pub fn leaf(name: &str, text: impl Into<String>) -> XMLNode {
    let mut element = Element::new(name);
    element.children.push(XMLNode::Text(text.into()));
    XMLNode::Element(element)
}

pub fn node(name: &str, children: Vec<XMLNode>) -> XMLNode {
    let mut element = Element::new(name);
    element.children = children;
    XMLNode::Element(element)
}

/// Puts this child in the place of those of its name.
pub fn replace(parent: &mut Element, child: XMLNode) {
    if let Some(element) = child.as_element() {
        let name = element.name.clone();
        parent.children.retain(|old| old.as_element().is_none_or(|old| old.name != name));
    }
    parent.children.push(child);
}

/// A whole answer of ours.
pub fn response(name: &str, children: Vec<XMLNode>, request_id: &str) -> String {
    let mut root = Element::new(name);
    root.attributes.insert("xmlns".into(), NAMESPACE.to_owned());
    root.children = vec![leaf("requestId", request_id)];
    root.children.extend(children);
    print(&root)
}
