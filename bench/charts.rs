//! The charts, as SVG: bars of ratios, and lines.
//!
//! Lives here: how they look. May not come in here: figures.

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::measure::Spread;

const WIDTH: u32 = 800;
const COLORS: [RGBColor; 6] = [
    RGBColor(31, 90, 160),
    RGBColor(214, 110, 20),
    RGBColor(60, 140, 70),
    RGBColor(130, 80, 160),
    RGBColor(120, 120, 120),
    RGBColor(180, 50, 60),
];
const OTHERS: RGBColor = RGBColor(170, 180, 190);
const GOAL: RGBColor = RGBColor(180, 50, 60);
const INK: RGBColor = RGBColor(40, 40, 40);

/// A bar: its name, how far it goes from round to round, and what is written at its end.
pub struct Bar {
    pub name: String,
    pub spread: Spread,
    pub value: String,
    pub is_ours: bool,
}

/// A line of a chart.
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

impl Series {
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), points: Vec::new() }
    }
}

fn font(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

/// Horizontal bars from the top down, a whisker from quartile to quartile, and the goal as a line across.
pub fn bars(title: &str, axis: &str, bars: &[Bar], goal: Option<f64>) -> String {
    let height = 130 + 38 * bars.len() as u32;
    let most = bars.iter().map(|bar| bar.spread.quartiles.1).chain(goal).fold(0.0, f64::max);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE).unwrap();
        let count = bars.len() as f64;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, font(20))
            .margin(10)
            .x_label_area_size(45)
            .y_label_area_size(250)
            .margin_right(25)
            // Room on the right for values, and on top for the goal.
            .build_cartesian_2d(0.0..most * 1.35, 0.0..count + 0.5)
            .unwrap();
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .y_labels(0)
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225))
            .x_desc(axis)
            .axis_desc_style(font(14))
            .label_style(font(13))
            .draw()
            .unwrap();
        let middle = |at: usize| count - at as f64 - 0.5;
        let rectangle = |at: usize, bar: &Bar| {
            let color = if bar.is_ours { COLORS[0] } else { OTHERS };
            let (low, high) = (middle(at) - 0.32, middle(at) + 0.32);
            Rectangle::new([(0.0, low), (bar.spread.median, high)], color.filled())
        };
        chart.draw_series(bars.iter().enumerate().map(|(at, bar)| rectangle(at, bar))).unwrap();
        let whisker = |at: usize, bar: &Bar| {
            let (low, high) = bar.spread.quartiles;
            PathElement::new(vec![(low, middle(at)), (high, middle(at))], INK.stroke_width(1))
        };
        chart.draw_series(bars.iter().enumerate().map(|(at, bar)| whisker(at, bar))).unwrap();
        if let Some(goal) = goal {
            let line = PathElement::new(vec![(goal, 0.0), (goal, count)], GOAL.stroke_width(2));
            chart.draw_series([line]).unwrap();
            let (x, y) = chart.backend_coord(&(goal, count));
            let style = ("sans-serif", 13).into_font().color(&GOAL).pos(Pos::new(HPos::Center, VPos::Bottom));
            root.draw(&Text::new(format!("goal {goal}"), (x, y - 2), style)).unwrap();
        }
        for (at, bar) in bars.iter().enumerate() {
            let (x, y) = chart.backend_coord(&(0.0, middle(at)));
            let style = font(14).pos(Pos::new(HPos::Right, VPos::Center));
            root.draw(&Text::new(bar.name.clone(), (x - 8, y), style)).unwrap();
            let (x, y) = chart.backend_coord(&(most * 1.35, middle(at)));
            let style = font(13).pos(Pos::new(HPos::Right, VPos::Center));
            root.draw(&Text::new(bar.value.clone(), (x, y), style)).unwrap();
        }
        root.present().unwrap();
    }
    svg
}

/// Lines over a logarithmic axis of which every point is labelled.
pub fn lines(title: &str, axes: (&str, &str), series: &[Series]) -> String {
    let xs: Vec<f64> = series[0].points.iter().map(|(x, _)| *x).collect();
    let most = series.iter().flat_map(|series| &series.points).map(|(_, y)| *y).fold(0.0, f64::max);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, 420)).into_drawing_area();
        root.fill(&WHITE).unwrap();
        let range = (xs[0]..xs[xs.len() - 1]).log_scale().with_key_points(xs);
        // Room on top for the names of the lines.
        draw_lines(&root, title, axes, series, range, most * 1.4);
        root.present().unwrap();
    }
    svg
}

fn draw_lines<X>(
    root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    title: &str,
    (x_axis, y_axis): (&str, &str),
    series: &[Series],
    range: X,
    most: f64,
) where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(root)
        .caption(title, font(20))
        .margin(15)
        .margin_right(40)
        .x_label_area_size(50)
        .y_label_area_size(80)
        .build_cartesian_2d(range, 0.0..most)
        .unwrap();
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .x_desc(x_axis)
        .y_desc(y_axis)
        .x_label_formatter(&|x| crate::report::grouped(*x))
        .y_label_formatter(&|y| crate::report::grouped(*y))
        .axis_desc_style(font(14))
        .label_style(font(13))
        .draw()
        .unwrap();
    for (series, color) in series.iter().zip(COLORS) {
        let line = LineSeries::new(series.points.iter().copied(), color.stroke_width(2)).point_size(4);
        chart
            .draw_series(line)
            .unwrap()
            .label(series.name.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(3)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .label_font(font(14))
        .draw()
        .unwrap();
}
