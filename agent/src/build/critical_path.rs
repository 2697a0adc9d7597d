//! The longest chain of tool runs of which each had to wait for the one before: the least time that the build would have
//! taken on any number of processors.
//!
//! What a compilation or link waits for is in its `importcfg`; what has to come before the first tool (loading packages,
//! downloads) comes before all of them.

use std::collections::HashMap;

use super::{download::Span, share, tools::Child, types::Phase};

/// Length of the critical path; absent where there is no tool run, or the inputs of one were not seen.
pub fn length_ns(children: &[Child], span: Span) -> Option<u64> {
    let nodes = nodes(children, span)?;
    let first_ns = children.iter().filter(|child| is_step(child)).map(|child| child.start_ns).min()?;
    let made_by: HashMap<&str, usize> =
        nodes.iter().enumerate().flat_map(|(index, node)| node.makes.iter().map(move |file| (*file, index))).collect();
    let mut lengths = vec![None; nodes.len()];
    let longest = (0..nodes.len()).map(|index| longest(index, &nodes, &made_by, &mut lengths)).max()?;
    Some(first_ns.saturating_sub(span.start_ns) + longest)
}

/// All runs of tools for one package, one link, one test run.
struct Node<'a> {
    work_ns: u64,
    makes: Vec<&'a str>,
    reads: Vec<&'a str>,
}

fn is_step(child: &Child) -> bool {
    match child.phase() {
        Some(Phase::Compile | Phase::Link) => true,
        Some(Phase::Run) => child.is_test(),
        Some(Phase::Download | Phase::Load | Phase::Vet | Phase::Wait | Phase::Other) | None => false,
    }
}

fn nodes(children: &[Child], span: Span) -> Option<Vec<Node<'_>>> {
    let mut nodes: Vec<(Node<'_>, Vec<(u64, u64)>)> = Vec::new();
    let mut by_package: HashMap<&str, usize> = HashMap::new();
    for child in children.iter().filter(|child| is_step(child)) {
        let index = match (child.phase(), child.import_path.as_deref()) {
            (Some(Phase::Compile), Some(import_path)) => *by_package.entry(import_path).or_insert(nodes.len()),
            _ => nodes.len(),
        };
        if index == nodes.len() {
            nodes.push((Node { work_ns: 0, makes: Vec::new(), reads: Vec::new() }, Vec::new()));
        }
        let (node, spans) = &mut nodes[index];
        let end_ns = child.end_ns.unwrap_or(span.end_ns).min(span.end_ns);
        spans.push((child.start_ns.max(span.start_ns), end_ns));
        let file = child.file.as_deref();
        match child.phase() {
            // A test binary waits for its link.
            Some(Phase::Run) => node.reads.extend(file),
            _ => {
                node.makes.extend(file);
                match &child.reads {
                    Some(reads) => node.reads.extend(reads.iter().map(String::as_str)),
                    None if child.reads_packages() => return None,
                    None => {}
                }
            }
        }
    }
    let finished = nodes.into_iter().map(|(node, spans)| Node { work_ns: share::union_ns(spans), ..node });
    Some(finished.collect())
}

/// Work of a node and of the longest chain before it. Archives are made before they are read, so there is no cycle; a
/// file that names its own reader ends the chain.
fn longest(index: usize, nodes: &[Node<'_>], made_by: &HashMap<&str, usize>, lengths: &mut [Option<u64>]) -> u64 {
    if let Some(known) = lengths[index] {
        return known;
    }
    lengths[index] = Some(0);
    let before = nodes[index].reads.iter().filter_map(|file| made_by.get(file).copied());
    let longest_before = before.map(|before| longest(before, nodes, made_by, lengths)).max().unwrap_or(0);
    let length = nodes[index].work_ns + longest_before;
    lengths[index] = Some(length);
    length
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::tools::fixtures;

    fn tool(name: &str, import_path: &str, file: &str, times_ns: (u64, u64), reads: &[&str]) -> Child {
        let mut child = fixtures::tool(name, import_path, file, times_ns.0);
        child.end_ns = Some(times_ns.1);
        child.reads = Some(reads.iter().map(|&file| file.to_owned()).collect());
        child
    }

    #[test]
    fn the_longest_chain_counts_with_what_came_before_it() {
        let children = vec![
            tool("compile", "a", "/w/b002/_pkg_.a", (110, 120), &[]),
            tool("compile", "b", "/w/b003/_pkg_.a", (121, 150), &["/w/b002/_pkg_.a"]),
            // Two tools for one package: their union.
            tool("asm", "b", "/w/b003/x.o", (140, 155), &[]),
            tool("compile", "c", "/w/b004/_pkg_.a", (110, 140), &[]),
            tool("link", "m", "/w/b001/exe/a.out", (160, 170), &["/w/b003/_pkg_.a", "/w/b004/_pkg_.a"]),
        ];
        let span = Span { start_ns: 100, end_ns: 175 };
        assert_eq!(length_ns(&children, span), Some(10 + 10 + 34 + 10));
        assert_eq!(length_ns(&[], span), None);
    }

    #[test]
    fn a_compilation_whose_inputs_were_not_seen_leaves_it_unknown() {
        let mut children = vec![tool("compile", "a", "/w/b002/_pkg_.a", (110, 120), &[])];
        children[0].reads = None;
        assert_eq!(length_ns(&children, Span { start_ns: 100, end_ns: 130 }), None);
    }

    #[test]
    fn a_file_that_reads_itself_ends() {
        let children = vec![tool("compile", "a", "/w/a", (110, 120), &["/w/a"])];
        assert_eq!(length_ns(&children, Span { start_ns: 100, end_ns: 130 }), Some(20));
    }
}
