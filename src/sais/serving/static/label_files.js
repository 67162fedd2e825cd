/** Label files of the objects shown: a COCO file and a LabelMe file, as `sais predict` writes them. */

import { ringArea, simplifyRing, withoutSteps } from "./outlines.js";
import { maskToPng } from "./png.js";
import { crop } from "./rle.js";

/**
 * Return a COCO file of one image. Category ids are class ids, from 0.
 *
 * @param {object[]} objects objects of `decodeDetections`
 * @param {object} image name, width and height
 * @param {object} model name and classes
 */
export function toCoco(objects, { name, width, height }, { name: model, classes }) {
  return {
    info: { description: `Predicted by sais, model ${model}` },
    images: [{ id: 1, width, height, file_name: name }],
    categories: classes.map((className, id) => ({ id, name: className })),
    annotations: objects.map((object, index) => {
      const [x1, y1, x2, y2] = object.box;
      const annotation = {
        id: index + 1,
        image_id: 1,
        category_id: object.classId,
        bbox: [x1, y1, x2 - x1, y2 - y1],
        area: object.area,
        iscrowd: 0,
        score: object.score,
      };
      return object.rle ? { ...annotation, segmentation: object.rle } : annotation;
    }),
  };
}

/**
 * Return a LabelMe file. A part of an object is a polygon; parts of one object have the same group_id. An object with
 * holes is a `mask` shape, because polygons have none.
 *
 * @param {object[]} objects objects of `decodeDetections`
 * @param {object} image name, width and height
 */
export async function toLabelme(objects, { name, width, height }) {
  const shapes = [];
  let groups = 0;
  for (const object of objects) {
    const parts = await shapesOf(object, height);
    if (parts.length > 1) groups++;
    const common = {
      label: object.className,
      group_id: parts.length > 1 ? groups : null,
      description: `score ${object.score.toFixed(4)}`,
      flags: {},
      mask: null,
    };
    shapes.push(...parts.map((part) => ({ ...common, ...part })));
  }
  const image = { imagePath: name, imageData: null, imageHeight: height, imageWidth: width };
  return { version: "5.5.0", flags: {}, shapes, ...image };
}

async function shapesOf({ ends, box, bounds, rings, area }, height) {
  const [x1, y1, x2, y2] = box;
  if (!ends || rings.length === 0) {
    return [{ shape_type: "rectangle", points: [[x1, y1], [x2, y2]] }];
  }
  if (rings.some((ring) => ringArea(ring) < 0)) {
    const mask = crop(ends, height, bounds);
    const corners = [[bounds[0], bounds[1]], [bounds[2] - 1, bounds[3] - 1]]; // the first and the last pixel
    return [{ shape_type: "mask", points: corners, mask: await maskToPng(mask.bits, mask.width, mask.height) }];
  }
  // One pixel at most; less for small objects, of which it would be a large part.
  const tolerance = Math.min(1, 0.02 * Math.sqrt(area));
  return rings.map((ring) => ({ shape_type: "polygon", points: pairs(simplifyRing(withoutSteps(ring), tolerance)) }));
}

function pairs(ring) {
  return Array.from({ length: ring.length / 2 }, (_, i) => [ring[2 * i], ring[2 * i + 1]]);
}
