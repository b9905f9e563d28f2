{{/* Values that a schema cannot judge: what belongs together, and numbers behind units. */}}

{{/* Bytes of a size as settings have it (4GiB, 1TB, 4096) or as Kubernetes has it (6Gi, 1.5G). */}}
{{- define "quickwater.bytes" -}}
{{- $number := regexFind "^[0-9]+([.][0-9]+)?" . | float64 -}}
{{- $unit := regexReplaceAll "^[0-9.]+ ?" . "" -}}
{{- $factors := dict "" 1 "B" 1 "k" 1000 "kB" 1000 "KB" 1000 "M" 1000000 "MB" 1000000 "G" 1000000000 "GB" 1000000000 "T" 1000000000000 "TB" 1000000000000 "P" 1000000000000000 "E" 1000000000000000000 -}}
{{- $binary := dict "K" 1024 "M" 1048576 "G" 1073741824 "T" 1099511627776 "P" 1125899906842624 "E" 1152921504606846976 -}}
{{- if regexMatch "^[KMGTPE]i" $unit -}}
{{- mulf $number (get $binary (substr 0 1 $unit)) | int64 -}}
{{- else -}}
{{- mulf $number (get $factors $unit) | int64 -}}
{{- end -}}
{{- end -}}

{{/* Milliseconds of a duration as settings have it. */}}
{{- define "quickwater.milliseconds" -}}
{{- $factors := dict "ms" 1 "s" 1000 "m" 60000 "min" 60000 "h" 3600000 "d" 86400000 -}}
{{- mul (regexFind "^[0-9]+" . | int64) (get $factors (regexFind "[a-z]+$" .)) -}}
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

{{/* A directory must come from a volume: the root file systems of the containers cannot be
written, and are not shared. dict "root" $ "what" "ufs.uri" "uri" "file:///..." */}}
{{- define "quickwater.checkDirectory" -}}
{{- $path := .uri | trimPrefix "file://" | clean -}}
{{- $places := list -}}
{{- if .root.Values.ufs.persistentVolumeClaim -}}
{{- $places = append $places "/srv/ufs" -}}
{{- end -}}
{{- range .root.Values.extraVolumeMounts -}}
{{- $places = append $places (clean (default "/" .mountPath)) -}}
{{- end -}}
{{- $found := false -}}
{{- range $places -}}
{{- if or (eq $path .) (hasPrefix (printf "%s/" .) $path) -}}
{{- $found = true -}}
{{- end -}}
{{- end -}}
{{- if not $found -}}
{{- fail (printf "%s: no volume is mounted at %s: name a claim in ufs.persistentVolumeClaim (it is mounted at /srv/ufs), or a volume in extraVolumes and extraVolumeMounts" .what $path) -}}
{{- end -}}
{{- end -}}

{{- define "quickwater.checks" -}}
{{- $lease := include "quickwater.milliseconds" .Values.control.lease | int64 -}}
{{- if or (lt $lease (int64 2000)) (gt $lease (int64 600000)) -}}
{{- fail (printf "control.lease: %s: use 2s to 10m" .Values.control.lease) -}}
{{- end -}}
{{- include "quickwater.checkMemory" (dict "name" "control" "values" .Values.control) -}}
{{- include "quickwater.checkMemory" (dict "name" "worker" "values" .Values.worker) -}}
{{- if hasPrefix "file://" .Values.ufs.uri -}}
{{- include "quickwater.checkDirectory" (dict "root" . "what" "ufs.uri" "uri" .Values.ufs.uri) -}}
{{- end -}}
{{- range .Values.mounts -}}
{{- $uri := regexFind "=[^,]*" . | trimPrefix "=" -}}
{{- if hasPrefix "file://" $uri -}}
{{- include "quickwater.checkDirectory" (dict "root" $ "what" (printf "mounts: %s" .) "uri" $uri) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.worker.hostNetwork .Values.worker.hostPort -}}
{{- fail "worker.hostPort: with worker.hostNetwork a worker has port 29998 of its node already: leave one of them out" -}}
{{- end -}}
{{- end -}}
