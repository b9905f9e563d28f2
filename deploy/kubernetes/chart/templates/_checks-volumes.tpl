{{/* Volumes that are added to all pods. */}}

{{- define "quickwater.checkVolumes" -}}
{{- /* Also those that a pod has with other values only: they may be set one day. */ -}}
{{- $own := list "admin-token" "bpffs" "certificates" "cgroup" "foundationdb" "foundationdb-cluster" "s3-keys" "s3-tls" "state" "ufs" "ufs-credentials" -}}
{{- $there := list -}}
{{- range .Values.extraVolumes -}}
{{- if has .name $own -}}
{{- fail (printf "extraVolumes: %s is a volume of the chart's own: choose another name" .name) -}}
{{- end -}}
{{- if has .name $there -}}
{{- fail (printf "extraVolumes: %s stands there twice: each needs a name of its own" .name) -}}
{{- end -}}
{{- $there = append $there .name -}}
{{- end -}}
{{- $places := list "/etc/foundationdb" "/etc/quickwater/cluster" "/etc/quickwater/s3-tls" "/etc/quickwater/ufs" "/srv/ufs" "/sys/fs/bpf/quickwater" "/var/lib/quickwater" "/var/lib/quickwater/admin-token" "/var/lib/quickwater/credentials" -}}
{{- range .Values.extraVolumeMounts -}}
{{- if not (has .name $there) -}}
{{- fail (printf "extraVolumeMounts: %s: no volume of that name is in extraVolumes" .name) -}}
{{- end -}}
{{- $place := clean .mountPath -}}
{{- if eq $place "/" -}}
{{- fail (printf "extraVolumeMounts: %s: a volume at / hides the program: choose a path below it" .name) -}}
{{- end -}}
{{- include "quickwater.checkNotOfTheKernel" (dict "what" (printf "extraVolumeMounts: %s" .name) "path" $place) -}}
{{- if has $place $places -}}
{{- fail (printf "extraVolumeMounts: %s: something is mounted at %s already, by the chart or by another entry: choose another path" .name $place) -}}
{{- end -}}
{{- $places = append $places $place -}}
{{- end -}}
{{- end -}}

{{/* Where the kernel has file systems of its own nothing of anybody else's can be kept, nor
mounted: dict "what" "worker.storage.hostPath" "path" "/proc" */}}
{{- define "quickwater.checkNotOfTheKernel" -}}
{{- if regexMatch "^/(proc|sys|dev)(/|$)" .path -}}
{{- fail (printf "%s: %s: /proc, /sys and /dev belong to the kernel: choose another path" .what .path) -}}
{{- end -}}
{{- end -}}
