"""Routes of the plugin process. Never part of the server's own."""

from django.urls import path, re_path

from memory_store import plugin_views as views

urlpatterns = [
    path("v1/health", views.health),
    path("v1/namespaces", views.namespaces),
    path("v1/namespaces/", views.nameless),
    path("v1/namespaces/<name>", views.namespace),
    path("v1/namespaces/<name>/memories", views.records),
    path("v1/search", views.search),
    path("v1/memories/<memory_id>", views.record),
    re_path("", views.no_route),
]
