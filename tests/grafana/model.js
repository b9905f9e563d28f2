// What a dashboard's JSON asks of Prometheus, and the answers as Grafana's data frames. The
// rules of its variables, of $__rate_interval and of legends are those that Grafana documents;
// here they are ours, because its libraries leave them to its server.

import {FieldType, createDataFrame} from '@grafana/data';

// Grafana asks for about as many points as a panel of this width has pixels.
const POINTS_MAX = 500;

// Seconds between points, and what $__rate_interval stands for, for a range of `seconds` of
// samples that are `scrape` seconds apart.
export function steps(seconds, scrape) {
  const step = Math.max(Math.ceil(seconds / POINTS_MAX), scrape);
  return {step, rate: Math.max(step + scrape, 4 * scrape)};
}

// Replaces the variables of a text; one that is not known is an error, as it would be in PromQL.
export function interpolate(text, values) {
  return text.replace(/\$\{?(\w+)\}?/g, (whole, name) => {
    if (!(name in values)) throw new Error(`no variable ${whole} in ${text}`);
    return values[name];
  });
}

export function legend(format, labels) {
  if (!format || format === '__auto') return JSON.stringify(labels);
  return format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => labels[name] ?? '');
}

// One frame for each series of an answer to query_range.
export function frames(target, answer) {
  return answer.result.map(({metric, values}) => createDataFrame({
    refId: target.refId,
    fields: [
      {name: 'Time', type: FieldType.time, values: values.map(([at]) => at * 1000)},
      {
        name: 'Value',
        type: FieldType.number,
        labels: metric,
        // As Grafana's panel has it: what is not a number is a gap.
        values: values.map(([, value]) => (Number.isFinite(Number(value)) ? Number(value) : null)),
        config: {displayNameFromDS: legend(target.legendFormat, metric)},
      },
    ],
  }));
}

// One answer of Prometheus' HTTP API.
export async function ask(prometheus, path, query) {
  const reply = await fetch(`${prometheus}/api/v1/${path}?${new URLSearchParams(query)}`);
  const answer = await reply.json();
  if (answer.status !== 'success') throw new Error(`${answer.error}: ${JSON.stringify(query)}`);
  return answer.data;
}
