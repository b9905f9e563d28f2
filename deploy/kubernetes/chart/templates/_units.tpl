{{/* Numbers behind units, as settings and as Kubernetes write them. */}}

{{/* Bytes of a size as settings have it (4GiB, 1TB, 4096) or as Kubernetes has it (6Gi, 1.5G).
More than 1 EiB comes out as that: nothing here has so much, and int64 ends soon after. */}}
{{- define "quickwater.bytes" -}}
{{- $number := regexFind "^[0-9]+([.][0-9]+)?" . | float64 -}}
{{- $unit := regexReplaceAll "^[0-9.]+ ?" . "" -}}
{{- $factors := dict "" 1 "B" 1 "k" 1000 "kB" 1000 "KB" 1000 "M" 1000000 "MB" 1000000 "G" 1000000000 "GB" 1000000000 "T" 1000000000000 "TB" 1000000000000 "P" 1000000000000000 "E" 1000000000000000000 -}}
{{- $binary := dict "K" 1024 "M" 1048576 "G" 1073741824 "T" 1099511627776 "P" 1125899906842624 "E" 1152921504606846976 -}}
{{- $factor := get $factors $unit -}}
{{- if regexMatch "^[KMGTPE]i" $unit -}}
{{- $factor = get $binary (substr 0 1 $unit) -}}
{{- end -}}
{{- minf (mulf $number $factor) 1152921504606846976 | int64 -}}
{{- end -}}

{{/* Milliseconds of a duration as settings have it. */}}
{{- define "quickwater.milliseconds" -}}
{{- $factors := dict "ms" 1 "s" 1000 "m" 60000 "min" 60000 "h" 3600000 "d" 86400000 -}}
{{- mul (regexFind "^[0-9]+" . | int64) (get $factors (regexFind "[a-z]+$" .)) -}}
{{- end -}}

{{/* The shards that a worker has: as many as it is told, or as it may use CPUs in full. */}}
{{- define "quickwater.shards" -}}
{{- $cpu := toString .Values.worker.resources.cpu -}}
{{- $cpus := regexFind "^[0-9]+" $cpu | int64 -}}
{{- if hasSuffix "m" $cpu -}}
{{- $cpus = div $cpus 1000 -}}
{{- end -}}
{{- $told := regexFind "(^|\n)--threads[=\n][0-9]+" (join "\n" .Values.worker.extraArgs) -}}
{{- if .Values.ebpf.enabled -}}
{{- .Values.ebpf.threads -}}
{{- else if $told -}}
{{- regexFind "[0-9]+$" $told -}}
{{- else -}}
{{- max 1 $cpus -}}
{{- end -}}
{{- end -}}
