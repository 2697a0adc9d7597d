//! What the disk cost.

use super::doubt::{Doubt, marked};
use super::download::P95_SAMPLES;
use super::page::{Line, PLAIN, Page, STRONG};
use crate::build::{Area, Build, DeviceIo, Disk, DiskDirection};
use crate::units;

/// The section; nothing for a build that neither moved a block nor waited for one.
pub fn print(page: &mut Page, build: &Build) {
    let Some(disk) = &build.disk else { return };
    let doubt = Doubt::of(build).disk;
    let bytes = |count| marked(doubt, units::bytes(count));
    let mut moved: Vec<String> = Vec::new();
    if disk.read.operations > 0 {
        moved.push(format!("read {}", bytes(disk.read.bytes)));
    }
    if disk.write.operations > 0 {
        moved.push(format!("wrote {}", bytes(disk.write.bytes)));
    }
    let mut text = moved.join(", ");
    if let Some(wait_ns) = disk.io_wait_ns.filter(|ns| *ns > 0) {
        let separator = if text.is_empty() { "" } else { "; " };
        text.push_str(&format!("{separator}threads waited {}", marked(doubt, units::duration(wait_ns))));
    }
    if text.is_empty() {
        return;
    }
    page.wrapped(Line::default().with(STRONG, "Disk").with(PLAIN, "      "), &text);

    let mut areas: Vec<(u64, String)> = Vec::new();
    for row in &disk.by_area {
        let name = match row.area {
            Area::BuildCache => "GOCACHE",
            Area::ModuleCache => "GOMODCACHE",
            Area::Work => "work",
            Area::Other => "other",
        };
        let moved: Vec<String> = [("read", row.read_bytes), ("wrote", row.write_bytes)]
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(verb, count)| format!("{verb} {}", bytes(count)))
            .collect();
        if !moved.is_empty() {
            areas.push((row.read_bytes.saturating_add(row.write_bytes), format!("{name} {}", moved.join(", "))));
        }
    }
    areas.sort_by_key(|(total, _)| std::cmp::Reverse(*total));
    let areas: Vec<String> = areas.into_iter().map(|(_, text)| text).collect();
    page.wrapped_if_any(Line::plain("  "), &areas.join("; "));

    let latencies: Vec<String> = [("read", &disk.read), ("write", &disk.write)]
        .into_iter()
        .filter_map(|(name, direction)| latency(direction, doubt).map(|text| format!("{name} {text}")))
        .collect();
    page.wrapped_if_any(Line::plain("  latency "), &latencies.join("; "));
    page.wrapped_if_any(Line::plain("  waited "), &waits(disk, doubt).join(", "));
    for device in &disk.by_device {
        page.wrapped_if_any(Line::plain("  others "), &others(device, doubt).unwrap_or_default());
    }
}

/// Who waited, where there is more than one; what is left out is less than a tenth.
fn waits(disk: &Disk, doubt: bool) -> Vec<String> {
    let notable = |ns: u64| disk.io_wait_ns.is_some_and(|all| ns.saturating_mul(10) >= all);
    let rows = disk.io_wait_by_role.iter().filter(|row| disk.io_wait_by_role.len() > 1 && notable(row.io_wait_ns));
    rows.map(|row| format!("{} {}", row.role, marked(doubt, units::duration(row.io_wait_ns)))).collect()
}

/// Less than this hurts nobody.
const OTHERS_NOTABLE_BYTES: u64 = 64 << 20;

/// What kept a device busy besides the build, where that was as much as the build itself.
fn others(device: &DeviceIo, doubt: bool) -> Option<String> {
    let others = device.others?;
    let total = others.read.bytes.saturating_add(others.write.bytes);
    if total < OTHERS_NOTABLE_BYTES.max(device.read.bytes.saturating_add(device.write.bytes)) {
        return None;
    }
    let moved: Vec<String> = [("read", others.read.bytes), ("wrote", others.write.bytes)]
        .into_iter()
        .filter(|(_, count)| *count >= total / 10)
        .map(|(verb, count)| format!("{verb} {}", marked(doubt, units::bytes(count))))
        .collect();
    Some(format!("{} on {}", moved.join(", "), device.device))
}

fn latency(direction: &DiskDirection, doubt: bool) -> Option<String> {
    let p95 = direction.latency_ns.p95.filter(|_| direction.operations >= P95_SAMPLES);
    let max = direction.latency_ns.max.filter(|_| p95.is_none());
    let figures: Vec<String> = [("p50", direction.latency_ns.p50), ("p95", p95), ("max", max)]
        .into_iter()
        .filter_map(|(name, ns)| ns.map(|ns| format!("{} ({name})", marked(doubt, units::duration(ns)))))
        .collect();
    (direction.operations > 0 && !figures.is_empty()).then(|| figures.join(", "))
}
