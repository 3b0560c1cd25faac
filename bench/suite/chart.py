"""A chart of the ratios, as SVG: a bar a row of the table, to the right where orbit is better."""
import math
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, LINE, TOP = 1000, 430, 90, 20, 60
BETTER, WORSE, MARK = '#2a7f62', '#b5543c', '#222222'


def nearest_power(largest):
    """The scale's end: 2, 5, 10, 20, 50, ..."""
    end = 2
    for step in range(60):
        end = (2, 5, 10)[step % 3] * 10 ** (step // 3)
        if end >= largest:
            break
    return end


def text(x, y, words, anchor='start', size=12, weight='normal'):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
            f'font-weight="{weight}">{escape(words)}</text>')


def short(words, most=62):
    return words if len(words) <= most else words[:most - 1] + '…'


def target(r):
    """The ratio that is aimed at, or None."""
    return float(r['target'][3:]) if r['target'] and r['target'].startswith('>= ') else None


def svg(rows):
    rows = [r for r in rows if r['ratio']]
    end = nearest_power(max([2] + [max(r['ratio'], 1 / r['ratio'], target(r) or 0) for r in rows]))
    height = TOP + LINE * len(rows) + 40
    half = (WIDTH - LEFT - RIGHT) / 2
    middle = LEFT + half

    def at(ratio):
        return middle + half * math.log(ratio) / math.log(end)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
           f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
           f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
           text(20, 24, 'orbit beside heap: times better than heap (logarithmic)', size=16, weight='bold')]
    for tick in sorted({x for p in range(10) for n in (1, 2, 5) for x in (n * 10 ** p, 1 / (n * 10 ** p))}):
        if 1 / end <= tick <= end:
            x = at(tick)
            out.append(f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{height - 30}" stroke="#dddddd"/>')
            out.append(text(x, TOP - 12, f'{tick:g}', 'middle', 10))
    for n, r in enumerate(rows):
        y = TOP + n * LINE
        x = at(r['ratio'])
        colour = BETTER if r['ratio'] >= 1 else WORSE
        out.append(text(LEFT - 8, y + 14, short(r['text']), 'end', 11))
        out.append(f'<rect x="{min(x, middle):.1f}" y="{y + 3}" width="{abs(x - middle):.1f}" height="{LINE - 6}" '
                   f'fill="{colour}"/>')
        out.append(text(WIDTH - 10, y + 14, f"{r['ratio']:.2f}", 'end', 11))
        if target(r):
            t = at(target(r))
            out.append(f'<line x1="{t:.1f}" y1="{y + 1}" x2="{t:.1f}" y2="{y + LINE - 1}" stroke="{MARK}" stroke-width="2"/>')
    out.append(f'<line x1="{middle:.1f}" y1="{TOP - 8}" x2="{middle:.1f}" y2="{height - 30}" stroke="#555555"/>')
    out.append(text(20, height - 10, 'Black mark: the target. Green: orbit is better. Red: heap is better.', size=11))
    return '\n'.join(out) + '\n</svg>\n'


def write(path, rows):
    with open(path, 'w', encoding='utf8') as f:
        f.write(svg(rows))
