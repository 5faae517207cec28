//! A figure as pixels: the SVG of the figure, drawn by resvg with a typeface that is part of the program, so that
//! pictures look alike on machines without any.

use super::Error;
use super::chart::{Figure, Form};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb::Database};
use std::sync::{Arc, OnceLock};

/// Pixels per unit of the drawing: sharp on a screen with small pixels and in print.
const SCALE: f32 = 2.0;

/// The figure as a PNG file.
pub fn png(figure: &Figure) -> Result<Vec<u8>, Error> {
    let failed = |problem: String| Error::Drawing { figure: figure.caption().id.clone(), problem };
    // The typeface has no arrow.
    let svg = figure.svg(Form::File).into_string().replace('→', "›");
    let options = Options { fontdb: fonts(), font_family: "sans-serif".to_string(), ..Options::default() };
    let tree = Tree::from_str(&svg, &options).map_err(|error| failed(error.to_string()))?;
    let (width, height) = (tree.size().width() * SCALE, tree.size().height() * SCALE);
    let mut pixels = Pixmap::new(width.ceil() as u32, height.ceil() as u32)
        .ok_or_else(|| failed(format!("{width} × {height} pixels are no picture")))?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| failed(error.to_string()))
}

/// The one typeface, as every family that a drawing may ask for.
fn fonts() -> Arc<Database> {
    static FONTS: OnceLock<Arc<Database>> = OnceLock::new();
    let load = || {
        let mut fonts = Database::new();
        fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
        let family = fonts.faces().next().and_then(|face| face.families.first()).map(|(name, _)| name.clone());
        if let Some(family) = family {
            fonts.set_sans_serif_family(family);
        }
        Arc::new(fonts)
    };
    FONTS.get_or_init(load).clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::chart::tests::samples;
    use crate::report::chart::{Caption, LineChart, LineSpec, Series};
    use crate::report::number::Unit;

    #[test]
    fn two_lines_of_one_colour_are_told_apart_by_shapes_in_a_picture_too() {
        let drawn = |colour: usize| {
            let values: Vec<(f64, f64)> = (0..60).map(|i| (f64::from(i), f64::from(i % 5))).collect();
            let series = Series::new("a", "run", (colour, 0), values, 60);
            let spec = LineSpec::new(Caption::new("line", "a", "a"), "step", "nats", Unit::Plain);
            Pixmap::decode_png(
                &png(&Figure::Line(LineChart::build(spec, vec![series], vec![], vec![]).unwrap())).unwrap(),
            )
            .unwrap()
        };
        let differ = |a: &Pixmap, b: &Pixmap| a.pixels().iter().zip(b.pixels()).filter(|(a, b)| a != b).count();
        // The colours come round after eight: at least five shapes of some forty pixels each.
        let (first, ninth, seventeenth) = (drawn(0), drawn(8), drawn(16));
        for (a, b) in [(&first, &ninth), (&ninth, &seventeenth), (&first, &seventeenth)] {
            assert!(differ(a, b) > 200, "{}", differ(a, b));
        }
        assert_eq!(differ(&first, &drawn(0)), 0);
    }

    #[test]
    fn pictures_decode_and_are_not_blank() {
        for figure in samples() {
            let bytes = png(&figure).unwrap();
            let picture = Pixmap::decode_png(&bytes).unwrap();
            assert_eq!(picture.width(), 1280);
            let pixels = picture.pixels();
            let white = pixels.iter().filter(|p| (p.red(), p.green(), p.blue()) == (255, 255, 255)).count();
            let coloured = pixels.iter().filter(|p| p.red().abs_diff(p.blue()) > 60).count();
            assert!(white > pixels.len() / 4, "{}: paper", figure.caption().id);
            assert!(coloured > 100, "{}: colour", figure.caption().id);
            // Dark text on the paper: the typeface was found.
            let dark = pixels.iter().filter(|p| p.red() < 70 && p.green() < 70 && p.blue() < 80).count();
            assert!(dark > 200, "{}: text", figure.caption().id);
        }
    }
}
