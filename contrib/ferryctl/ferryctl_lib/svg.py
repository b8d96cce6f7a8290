# SPDX-License-Identifier: BSD-3-Clause
"""A migration as an SVG picture: rounds over time, and below them the stop and its parts."""

import xml.etree.ElementTree as xml

from .history import PARTS, dirtied, largest_size, round_name, stop_text
from .units import show_size, show_time

WIDTH, MARGIN = 960, 70
ROUNDS_TOP, ROUNDS_HEIGHT = 60, 300
STOP_TOP, STOP_HEIGHT = 460, 40
HEIGHT = 580
THIN = 1.0  # the least width of what has a length

COLOURS = {"sent": "#4c78a8", "dirtied": "#e45756", "remaining": "#222222", "stopped": "#bbbbbb"}
PART_COLOURS = ("#bab0ac", "#4c78a8", "#f58518", "#54a24b", "#b279a2")


class Picture:
    """Elements of an SVG, added in the order in which they are painted."""

    def __init__(self):
        self.root = xml.Element("svg", {
            "xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH} {HEIGHT}",
            "width": str(WIDTH), "height": str(HEIGHT), "font-family": "sans-serif",
            "font-size": "12"})
        self.rect(self.root, 0, 0, WIDTH, HEIGHT, "#ffffff")

    def group(self, name, title):
        group = xml.SubElement(self.root, "g", {"class": name})
        xml.SubElement(group, "title").text = title
        return group

    def rect(self, parent, x, y, width, height, fill, opacity=1):
        xml.SubElement(parent, "rect", {
            "x": f"{x:.2f}", "y": f"{y:.2f}", "width": f"{width:.2f}", "height": f"{height:.2f}",
            "fill": fill, "fill-opacity": str(opacity)})

    def line(self, points, colour):
        xml.SubElement(self.root, "polyline", {
            "points": " ".join(f"{x:.2f},{y:.2f}" for x, y in points), "fill": "none",
            "stroke": colour, "stroke-width": "1.5"})

    def text(self, x, y, text, anchor="start", size=12):
        xml.SubElement(self.root, "text", {"x": f"{x:.2f}", "y": f"{y:.2f}",
                                           "text-anchor": anchor, "font-size": str(size)}
                       ).text = text

    def bytes(self):
        return xml.tostring(self.root, encoding="utf-8", xml_declaration=True) + b"\n"


class Scale:
    """From milliseconds and bytes to places in the picture."""

    def __init__(self, end, largest):
        self.end = end or 1
        self.largest = largest or 1

    def x(self, time):
        return MARGIN + time / self.end * (WIDTH - 2 * MARGIN)

    def height(self, size):
        return size / self.largest * ROUNDS_HEIGHT

    def y(self, size):
        return ROUNDS_TOP + ROUNDS_HEIGHT - self.height(size)


def end_of(history):
    ends = [entry["end"] for entry in history["rounds"]]
    if "stop" in history:
        ends.append(history["stop"]["start"] + history["stop"]["downtime"])
    return max(ends, default=0)


def axes(picture, scale):
    picture.line([(MARGIN, ROUNDS_TOP), (MARGIN, scale.y(0)), (WIDTH - MARGIN, scale.y(0))],
                 "#888888")
    for share in (0, 0.25, 0.5, 0.75, 1):
        picture.text(scale.x(scale.end * share), scale.y(0) + 18, show_time(scale.end * share),
                     "middle")
        picture.text(MARGIN - 6, scale.y(scale.largest * share) + 4,
                     show_size(scale.largest * share), "end", 10)


def legend(picture):
    for at, (name, colour) in enumerate(COLOURS.items()):
        picture.rect(picture.root, MARGIN + at * 120, 36, 12, 12, colour)
        picture.text(MARGIN + at * 120 + 18, 46, name)


def round_title(entry):
    name = f"round{'' if entry['count'] < 2 else 's'} {round_name(entry)}"
    throttled = f", guest throttled {entry['throttle']} %" if entry["throttle"] else ""
    return (f"{name}: {show_time(entry['end'] - entry['start'])} from "
            f"{show_time(entry['start'])}, {show_size(entry['transferred'])} sent, "
            f"{show_size(dirtied(entry))} dirtied, "
            f"{show_size(entry['remaining'])} remaining{throttled}")


def one_round(picture, scale, entry):
    """Sent at the left, dirtied at the right of the time that it took."""
    group = picture.group("round", round_title(entry))
    left = scale.x(entry["start"])
    half = max(THIN, (scale.x(entry["end"]) - left) / 2)
    values = (("sent", entry["transferred"]), ("dirtied", dirtied(entry)))
    for at, (name, size) in enumerate(values):
        picture.rect(group, left + at * half, scale.y(size), half, scale.height(size),
                     COLOURS[name], 0.7)


def remaining_line(picture, scale, rounds):
    points = [(scale.x(entry["end"]), scale.y(entry["remaining"])) for entry in rounds]
    if points:
        picture.line(points, COLOURS["remaining"])


def stop_bar(picture, stop):
    """The parts of the stop, over the whole width."""
    total = sum(stop["parts"][part] for part in PARTS) or 1
    picture.text(MARGIN, STOP_TOP - 12, stop_text(stop))
    left = MARGIN
    for at, (part, colour) in enumerate(zip(PARTS, PART_COLOURS)):
        took = stop["parts"][part]
        width = took / total * (WIDTH - 2 * MARGIN)
        group = picture.group("part", f"{part}: {show_time(took)}")
        picture.rect(group, left, STOP_TOP, max(THIN, width), STOP_HEIGHT, colour)
        left += width
        picture.rect(picture.root, MARGIN + at * 160, STOP_TOP + 60, 12, 12, colour)
        picture.text(MARGIN + at * 160 + 18, STOP_TOP + 70, f"{part} {show_time(took)}")


def draw(title, history):
    """The picture's bytes."""
    picture = Picture()
    scale = Scale(end_of(history), largest_size(history["rounds"]))
    picture.text(MARGIN, 22, title, size=15)
    legend(picture)
    axes(picture, scale)
    if "stop" in history:
        stop = history["stop"]
        group = picture.group("stop", f"stopped for {show_time(stop['downtime'])}")
        left = scale.x(stop["start"])
        picture.rect(group, left, ROUNDS_TOP,
                     max(THIN, scale.x(stop["start"] + stop["downtime"]) - left), ROUNDS_HEIGHT,
                     COLOURS["stopped"])
    for entry in history["rounds"]:
        one_round(picture, scale, entry)
    remaining_line(picture, scale, history["rounds"])
    if "stop" in history:
        stop_bar(picture, history["stop"])
    return picture.bytes()
