{{/* Values that a schema cannot judge: what belongs together, and what is behind units. What
would render and then not start, or not do what was asked for, is refused here, with what to do. */}}
{{- define "quickwater.checks" -}}
{{- include "quickwater.checkControl" . -}}
{{- include "quickwater.checkWorker" . -}}
{{- include "quickwater.checkEbpf" . -}}
{{- include "quickwater.checkVolumes" . -}}
{{- include "quickwater.checkUfs" . -}}
{{- include "quickwater.checkNetworks" . -}}
{{- include "quickwater.checkLabels" . -}}
{{- end -}}

{{/* Labels that are added to the chart's own: a key that stands there twice is no YAML. */}}
{{- define "quickwater.checkLabels" -}}
{{- $own := include "quickwater.labels" . | fromYaml -}}
{{- range $name := list "serviceMonitor" "prometheusRule" "dashboards" -}}
{{- range $label, $_ := (index $.Values $name).labels -}}
{{- if hasKey $own $label -}}
{{- fail (printf "%s.labels: %s: the chart gives this label already: leave it out" $name $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "quickwater.checkControl" -}}
{{- $control := .Values.control -}}
{{- $lease := include "quickwater.milliseconds" $control.lease | int64 -}}
{{- if or (lt $lease (int64 2000)) (gt $lease (int64 600000)) -}}
{{- fail (printf "control.lease: %s: use 2s to 10m" $control.lease) -}}
{{- end -}}
{{- include "quickwater.checkMemory" (dict "name" "control" "values" $control) -}}
{{- include "quickwater.checkExtraArgs" (dict "name" "control" "extra" $control.extraArgs "own" (include "quickwater.controlArgs" .)) -}}
{{- $operator := $control.foundationdb.operator -}}
{{- if $operator.enabled -}}
{{- if ne $control.metadata "foundationdb" -}}
{{- fail "control.foundationdb.operator: with control.metadata: foundationdb only" -}}
{{- end -}}
{{- $library := $control.foundationdb.libraryVersion -}}
{{- if not (hasPrefix (printf "%s." $library) (printf "%s." $operator.version)) -}}
{{- fail (printf "control.foundationdb.libraryVersion: %s is not the client of servers of %s (operator.version): make them the same" $library $operator.version) -}}
{{- end -}}
{{- else if and (eq $control.metadata "foundationdb") (not $control.foundationdb.clusterFileSecret) -}}
{{- fail "control.foundationdb.clusterFileSecret: name the Secret with fdb.cluster, or enable control.foundationdb.operator" -}}
{{- end -}}
{{- end -}}

{{/* The memory that a process plans with: dict "name" "worker" "values" .Values.worker */}}
{{- define "quickwater.checkMemory" -}}
{{- $planned := include "quickwater.bytes" .values.memory | int64 -}}
{{- $limit := include "quickwater.bytes" .values.resources.memory | int64 -}}
{{- if lt $planned (int64 268435456) -}}
{{- fail (printf "%s.memory: %s is too little: 256MiB or more" .name .values.memory) -}}
{{- end -}}
{{- if gt (mul $planned 11) (mul $limit 10) -}}
{{- fail (printf "%s.memory: %s needs more than %s.resources.memory of %s, beyond which the kernel ends the process: leave a tenth and more" .name .values.memory .name .values.resources.memory) -}}
{{- end -}}
{{- end -}}

{{/* A flag that is given twice ends the process at its start, so extraArgs may have none of the
chart's: dict "name" "worker" "extra" .Values.worker.extraArgs "own" "a list of arguments" */}}
{{- define "quickwater.checkExtraArgs" -}}
{{- $taken := list "--control" "--cluster-control" -}}
{{- range fromYamlArray .own -}}
{{- $taken = append $taken (regexFind "^--[a-z0-9-]+" .) -}}
{{- end -}}
{{- range $word := .extra -}}
{{- $flag := regexFind "^--[a-z0-9-]+" $word -}}
{{- if and $flag (ne $flag "--mount") -}}
{{- if has $flag $taken -}}
{{- fail (printf "%s.extraArgs: %s: the chart gives %s already, or it stands there twice: the process would not start. See which value of values.yaml sets it" $.name $word $flag) -}}
{{- end -}}
{{- $taken = append $taken $flag -}}
{{- end -}}
{{- end -}}
{{- end -}}
