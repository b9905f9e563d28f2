{{/* Networks of NetworkPolicies. The pods speak IPv4 alone: another network matches nobody. */}}

{{- define "quickwater.checkNetworks" -}}
{{- $policy := .Values.networkPolicy -}}
{{- if and $policy.enabled .Values.worker.hostNetwork (not $policy.nodeCidrs) -}}
{{- fail "networkPolicy.nodeCidrs: with worker.hostNetwork workers come from their nodes' addresses: name their networks" -}}
{{- end -}}
{{- if and $policy.enabled .Values.serviceMonitor.enabled (not $policy.monitoring) -}}
{{- fail "networkPolicy.monitoring: empty, nobody may read metrics, and serviceMonitor.enabled wants them read: name where Prometheus is" -}}
{{- end -}}
{{- range $policy.nodeCidrs -}}
{{- $_ := include "quickwater.network" (dict "name" "networkPolicy.nodeCidrs" "cidr" .) -}}
{{- end -}}
{{- range $name := list "clients" "monitoring" -}}
{{- range index $policy $name -}}
{{- with .ipBlock -}}
{{- include "quickwater.checkBlock" (dict "name" (printf "networkPolicy.%s" $name) "block" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Of an ipBlock; Kubernetes wants what is left out to lie within it. */}}
{{- define "quickwater.checkBlock" -}}
{{- $outer := include "quickwater.network" (dict "name" .name "cidr" .block.cidr) | fromJson -}}
{{- range .block.except -}}
{{- $inner := include "quickwater.network" (dict "name" $.name "cidr" .) | fromJson -}}
{{- $size := int64 $outer.size -}}
{{- if or (ge (int64 $inner.size) $size) (ne (div (int64 $inner.first) $size) (div (int64 $outer.first) $size)) -}}
{{- fail (printf "%s: except: %s is no part of %s" $.name . $.block.cidr) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The first address of a network, as a number, and how many it has: dict "name" "cidr" */}}
{{- define "quickwater.network" -}}
{{- if not (regexMatch "^((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])[.]){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])/(3[0-2]|[12]?[0-9])$" .cidr) -}}
{{- fail (printf "%s: %s is no network of IPv4 addresses, which is all that the pods speak: write for example 10.0.0.0/16" .name .cidr) -}}
{{- end -}}
{{- $parts := splitList "/" .cidr -}}
{{- $address := 0 -}}
{{- range splitList "." (first $parts) -}}
{{- $address = add (mul $address 256) (int64 .) -}}
{{- end -}}
{{- $size := 1 -}}
{{- range until (int (sub 32 (int64 (last $parts)))) -}}
{{- $size = mul $size 2 -}}
{{- end -}}
{{- dict "first" (mul (div $address $size) $size) "size" $size | toJson -}}
{{- end -}}
