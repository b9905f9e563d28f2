// Draws one dashboard of deploy/grafana from a live Prometheus with the components that Grafana
// draws its panels with: PanelChrome, TimeSeries, units, colours and legends are theirs. The
// grid, the loading of the JSON and the queries are ours (see model.js): it is not Grafana.

import {useEffect, useState} from 'react';
import {createRoot} from 'react-dom/client';
import {
  FieldColorModeId, FieldConfigOptionsRegistry, LoadingState, applyFieldOverrides, createTheme,
  dateTime, identityOverrideProcessor,
} from '@grafana/data';
import {GlobalStyles, PanelChrome, PortalContainer, ThemeContext, TimeSeries} from '@grafana/ui';
import {ask, frames, interpolate, steps} from './model.js';

const REFRESH_MS = 5000;
// Of Grafana's grid: 24 columns, rows of 30 pixels, 8 between panels.
const COLUMNS = 24;
const ROW = 30;
const GAP = 8;
// What the field configuration of our panels may say. Anything else would be dropped in silence.
const CUSTOM = ['axisSoftMax', 'drawStyle', 'fillOpacity', 'lineWidth', 'showPoints', 'spanNulls'];
const STANDARD = ['color', 'unit', 'min', 'max', 'decimals'];
// What Grafana's panel of this type has where the JSON says nothing.
const DEFAULTS = {color: {mode: FieldColorModeId.PaletteClassic}};

const query = new URLSearchParams(location.search);
// What deploy/grafana/provisioning has, and the dashboards.
const prometheus = query.get('prometheus') ?? 'http://127.0.0.1:9099';
const scrape = Number(query.get('scrape') ?? 15);
const seconds = Number(query.get('seconds') ?? 3600);
const theme = createTheme({colors: {mode: query.get('theme') ?? 'dark'}});
// For the test: what each panel had to draw.
window.drawn = {};

const registry = new FieldConfigOptionsRegistry(() => {
  const property = (id, isCustom) => ({
    id: isCustom ? `custom.${id}` : id,
    path: id,
    name: id,
    isCustom,
    process: identityOverrideProcessor,
    shouldApply: () => true,
  });
  return [...STANDARD.map(id => property(id, false)), ...CUSTOM.map(id => property(id, true))];
});

function check(panel) {
  const {custom, ...standard} = panel.fieldConfig.defaults;
  const unknown = [
    ...Object.keys(custom).filter(id => !CUSTOM.includes(id)),
    ...Object.keys(standard).filter(id => !STANDARD.includes(id)),
    ...(panel.type === 'timeseries' ? [] : [panel.type]),
  ];
  if (unknown.length) throw new Error(`${panel.title}: not known here: ${unknown}`);
}

async function load(panel, variables, now) {
  check(panel);
  const {step, rate} = steps(seconds, scrape);
  const values = {...variables, __rate_interval: `${rate}s`, __interval: `${step}s`};
  // On whole steps, as Grafana asks, so that nothing flickers from look to look.
  const end = Math.floor(now / step) * step;
  const answers = await Promise.all(panel.targets.map(async target => {
    const expr = interpolate(target.expr, values);
    const range = {query: expr, start: end - seconds, end, step};
    return frames(target, await ask(prometheus, 'query_range', range));
  }));
  const from = dateTime((end - seconds) * 1000);
  const to = dateTime(end * 1000);
  return {data: answers.flat(), timeRange: {from, to, raw: {from, to}}};
}

function Plot({panel, state, width, height}) {
  if (!state.data.length) return <div className="empty">No data</div>;
  const data = applyFieldOverrides({
    data: state.data,
    fieldConfig: {...panel.fieldConfig, defaults: {...DEFAULTS, ...panel.fieldConfig.defaults}},
    fieldConfigRegistry: registry,
    replaceVariables: text => text,
    theme,
  });
  return (
    <TimeSeries frames={data} structureRev={state.at} timeRange={state.timeRange} timeZone="browser"
      width={width} height={height} legend={{calcs: [], ...panel.options.legend}} />
  );
}

function Panel({panel, width, height, variables}) {
  const [state, setState] = useState({});
  useEffect(() => {
    let ended = false;
    const look = async () => {
      const now = Date.now() / 1000;
      try {
        const found = await load(panel, variables, now);
        if (ended) return;
        window.drawn[panel.id] = {
          title: panel.title,
          at: now,
          series: found.data.map(frame => ({
            name: frame.fields[1].config.displayNameFromDS,
            numbers: frame.fields[1].values.filter(Number.isFinite).length,
          })),
        };
        setState({...found, at: now});
      } catch (error) {
        window.drawn[panel.id] = {title: panel.title, at: now, error: String(error), series: []};
        setState({error});
      }
    };
    look();
    const timer = setInterval(look, REFRESH_MS);
    return () => { ended = true; clearInterval(timer); };
  }, [panel, variables]);
  return (
    <PanelChrome title={panel.title} description={panel.description} width={width} height={height}
      loadingState={state.error ? LoadingState.Error : LoadingState.Done}
      statusMessage={state.error && String(state.error)}>
      {(inner, outer) => state.data && <Plot {...{panel, state}} width={inner} height={outer} />}
    </PanelChrome>
  );
}

function Dashboard({dashboard, variables}) {
  const unit = (document.documentElement.clientWidth - GAP) / COLUMNS;
  const place = ({x, y, w, h}) => ({
    left: GAP + x * unit, top: y * (ROW + GAP), width: w * unit - GAP, height: h * (ROW + GAP) - GAP,
  });
  const end = Math.max(...dashboard.panels.map(({gridPos: {y, h}}) => (y + h) * (ROW + GAP)));
  return (
    <>
      <h1>{dashboard.title}</h1>
      <div style={{position: 'relative', height: end}}>
        {dashboard.panels.map(panel => {
          const at = place(panel.gridPos);
          return (
            <div key={panel.id} id={`panel-${panel.id}`} style={{position: 'absolute', ...at}}>
              {panel.type === 'row'
                ? <h2>{panel.title}</h2>
                : <Panel {...{panel, variables}} width={at.width} height={at.height} />}
            </div>
          );
        })}
      </div>
    </>
  );
}

// What a variable is at first, after those before it. Of one that takes several, all values as
// the regular expression that Grafana makes of "All": its `allValue`, or the values, which must be
// some. Of one that takes one, the first, or the empty text where there is none.
async function variable({name, type, multi, allValue, query}, known) {
  if (type === 'datasource') return 'prometheus';
  const [, metric, label] = interpolate(query.query, known).match(/^label_values\((.+), (\w+)\)$/);
  const values = await ask(prometheus, `label/${label}/values`, {'match[]': metric});
  window.variables = {...window.variables, [name]: values};
  if (!multi) return values[0] ?? '';
  if (!values.length) throw new Error(`${query.query} has no values`);
  return allValue ?? `(${values.join('|')})`;
}

async function start() {
  const dashboard = await (await fetch(`dashboards/${query.get('dashboard') ?? 'quickwater'}.json`)).json();
  const variables = {};
  for (const one of dashboard.templating.list) variables[one.name] = await variable(one, variables);
  const style = document.createElement('style');
  style.textContent = `::-webkit-scrollbar { display: none }
    body { background: ${theme.colors.background.canvas} }
    h1 { margin: ${GAP}px; font-size: 20px } h2 { font-size: 16px; line-height: ${ROW}px }
    .empty { text-align: center }`;
  createRoot(document.getElementById('page')).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <Dashboard {...{dashboard, variables}} />
      <PortalContainer />
    </ThemeContext.Provider>,
  );
  document.head.append(style);
}

start().catch(error => { document.body.textContent = window.failure = String(error); });
